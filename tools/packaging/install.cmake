# Install rules and the two package descriptions; included by the top CMakeLists.txt.
include(CMakePackageConfigHelpers)
set_target_properties(kvrt PROPERTIES EXPORT_NAME kvrt)
install(TARGETS kvrt kvrt_static EXPORT kvrtTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES runtime/kvrt.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT kvrtTargets NAMESPACE kvrt:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
configure_package_config_file(tools/packaging/kvrtConfig.cmake.in ${PROJECT_BINARY_DIR}/kvrtConfig.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH kvrt_pc_to_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix) # relocatable: no prefix is baked in
configure_file(tools/packaging/kvrt.pc.in ${PROJECT_BINARY_DIR}/kvrt.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvrtConfig.cmake ${PROJECT_BINARY_DIR}/kvrtConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvrt)
install(FILES ${PROJECT_BINARY_DIR}/kvrt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
if(TARGET kvrt_command)
    install(TARGETS kvrt_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# The manual page and the completions come out of the installed command, so they match it.
if(TARGET kvrt_command)
    set(page ${PROJECT_BINARY_DIR}/kvrt.1)
    set(scripts ${PROJECT_BINARY_DIR}/completions)
    # Paths reach the shell as arguments, never as text of its command: a checkout may lie under any name.
    add_custom_command(TARGET kvrt_command POST_BUILD
        COMMAND ${CMAKE_COMMAND} -E make_directory ${scripts}
        COMMAND sh -c "\"$1\" --man >\"$2\"" sh $<TARGET_FILE:kvrt_command> ${page}
        COMMAND sh -c "\"$1\" --completions bash >\"$2\"" sh $<TARGET_FILE:kvrt_command> ${scripts}/kvrt
        COMMAND sh -c "\"$1\" --completions zsh >\"$2\"" sh $<TARGET_FILE:kvrt_command> ${scripts}/_kvrt
        COMMAND sh -c "\"$1\" --completions fish >\"$2\"" sh $<TARGET_FILE:kvrt_command> ${scripts}/kvrt.fish
        VERBATIM)
    install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${scripts}/kvrt DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
    install(FILES ${scripts}/_kvrt DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
    install(FILES ${scripts}/kvrt.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()
